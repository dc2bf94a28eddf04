"""Tables in and out: reads INPUT, validates it and writes OUTPUT. See ``io`` for the supported formats."""
