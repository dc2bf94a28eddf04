"""Views of the ledger: their version changes with their queries."""

from __future__ import annotations

import hashlib

from sqlalchemy.dialects import postgresql, sqlite

from opencode_tasks.ledger.migrate import VIEWS_VERSION
from opencode_tasks.ledger.views import DROPPED, VIEWS

# One line for each version. A changed digest needs a new VIEWS_VERSION, so that existing ledgers get the
# views; only another version of SQLAlchemy may change the digest of a version.
DIGESTS = {
    1: "2493e7d98bed9276",
    2: "fd769d7a33c7cd38",
    3: "2d93c8a706129fbb",
    4: "769fc7a1c3543c38",
    5: "3ae48ba3ad3f75c4",
    6: "d8930b9e6db3ac66",
}


def test_changed_views_have_a_new_version() -> None:
    texts = [
        f"{view.name}: {view.sql(dialect)}"
        for dialect in (sqlite.dialect(), postgresql.dialect())
        for view in VIEWS
    ]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    assert DIGESTS[VIEWS_VERSION] == digest
    assert max(DIGESTS) == VIEWS_VERSION


def test_a_view_that_exists_is_not_listed_as_dropped() -> None:
    assert not {view.name for view in VIEWS} & set(DROPPED)
