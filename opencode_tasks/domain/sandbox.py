"""Plain values of a sandbox: what is let into it, and what left it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SandboxKind = Literal["none", "bwrap"]
Network = Literal["none", "provider", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """Network, files and limits of the programs of a row inside of a sandbox.

    - ``network``: ``all`` leaves them the network of the machine. Otherwise they have none, and requests of
      opencode itself leave through a relay, which lets only ``hosts`` pass.
    - ``provider_hosts``, ``mcp_hosts``, ``other_hosts``: hosts as ``host:port``, those of MCP servers with
      the names of the servers. ``key_variables``: names of the variables with the keys of the providers.
    - ``keys_inside``: opencode gets the keys themselves, not placeholders that the relay replaces.
    - ``readable``: absolute paths outside that can be read. ``variables``: names of environment variables
      that are passed on.
    - ``processes``, ``memory_bytes``, ``file_bytes``: limits of all programs of a row together, and of the
      size of one file. ``files``, ``size_bytes``: limits of what a row adds to its files.
    """

    kind: SandboxKind = "bwrap"
    network: Network = "provider"
    provider_hosts: tuple[str, ...] = ()
    mcp_hosts: tuple[tuple[str, str], ...] = ()
    other_hosts: tuple[str, ...] = ()
    key_variables: tuple[str, ...] = ()
    keys_inside: bool = False
    readable: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    processes: int = 512
    memory_bytes: int = 4_000_000_000
    file_bytes: int = 1_000_000_000
    files: int = 100_000
    size_bytes: int = 2_000_000_000

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts that the relay lets pass."""
        of_mcp = (host for _, host in self.mcp_hosts)
        return tuple(dict.fromkeys((*self.provider_hosts, *of_mcp, *self.other_hosts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayCount:
    """Requests of a row that reached the relay of its sandbox.

    Attributes:
        requests: Number of requests that were sent to the providers of the models, by any method.
        answered: Number of those by POST, which a provider charges, that had an answer without an error.
        refused: Number of requests that did not pass: to other hosts, with keys that are not of the run, by
            methods that providers do not need or with too large a body; and of connections of other
            programs than opencode.
        bytes_sent: Bytes of the bodies of the requests that were sent to them.
        bytes_received: Bytes of the bodies of their responses.

    Examples:
        >>> from opencode_tasks.domain.sandbox import RelayCount
        >>> RelayCount(requests=2) + RelayCount(requests=1, refused=1)
        RelayCount(requests=3, answered=0, refused=1, bytes_sent=0, bytes_received=0)
    """

    requests: int = 0
    answered: int = 0
    refused: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def __add__(self, other: RelayCount) -> RelayCount:
        """The sum of both."""
        return RelayCount(
            requests=self.requests + other.requests,
            answered=self.answered + other.answered,
            refused=self.refused + other.refused,
            bytes_sent=self.bytes_sent + other.bytes_sent,
            bytes_received=self.bytes_received + other.bytes_received,
        )
