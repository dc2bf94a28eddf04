"""How good the answers are and what more of them will cost: statistics over rows that ended. Pure."""
