"""The command line ``opencode-tasks``: stdout is data, stderr is for people."""
