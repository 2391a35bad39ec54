"""What the journal says, for a command that looks on: read without writing, also while an adaptor runs. Blocking."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from adaptor.errors import Unavailable
from adaptor.sandbox.model import Event, JournalFault, SandboxState, fold, from_json

_BUSY_TIMEOUT = 5.0  # seconds for another process's transaction


def read_states(path: Path) -> dict[str, SandboxState]:
    """Every sandbox's state by its id. Raises: Unavailable (there is none, or it cannot be read), JournalFault."""
    if not path.exists():
        raise Unavailable(f"there is no journal {path}: no adaptor has run here, or it was removed")
    events: dict[str, list[Event]] = {}
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT)) as db:
            for seq, sandbox, kind, body in db.execute("SELECT seq, sandbox, kind, body FROM journal ORDER BY seq"):
                try:
                    events.setdefault(sandbox, []).append(from_json(kind, json.loads(body)))
                except (JournalFault, json.JSONDecodeError) as error:
                    raise JournalFault(f"{path}: row {seq} (sandbox {sandbox}): {error}") from error
    except sqlite3.Error as error:
        raise Unavailable(f"the journal {path} cannot be read: {error}") from error
    return {sandbox: fold(of_one) for sandbox, of_one in events.items()}
