"""From what opencode reported to an answer or a typed error. Pure."""
