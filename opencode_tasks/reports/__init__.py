"""Reports over a ledger: lines for programs, FOCUS for finance, a page for people."""
