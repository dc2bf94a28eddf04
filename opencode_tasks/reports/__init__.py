"""Cost reports over a ledger: lines for programs, FOCUS charges for finance, an HTML page for people."""
