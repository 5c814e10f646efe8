"""The Hugging Face hub: how a name there begins, and what its library says, as sentences."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from midstream.errors import RequestError

PREFIX = "hf:"
"""What a name on the hub begins with; nothing is fetched or sent unless the user gives one."""


@contextmanager
def explained(name: str) -> Generator[None]:
    """Turns whatever is raised inside into a RequestError that names ``name`` and says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except RequestError:
        raise
    except errors.LocalEntryNotFoundError as error:
        raise RequestError(
            f"cannot fetch {name}: it is not on this machine, and the hub cannot be reached or offline mode is on."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise RequestError(f"cannot reach {name}: offline mode is on (HF_HUB_OFFLINE).") from error
    except errors.GatedRepoError as error:
        raise RequestError(f"{name} is gated: ask for access on its page, then log in with hf auth login.") from error
    except errors.RepositoryNotFoundError as error:
        raise RequestError(
            f"the hub has no {name}, or it is private: check the name, or log in (hf auth login)."
        ) from error
    except errors.EntryNotFoundError as error:
        raise RequestError(f"the hub has no {name}: its repository holds no such file.") from error
    except Exception as error:  # of the library, of what it connects through, or of an answer it cannot read
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise RequestError(
                f"the hub does not let you use {name}: log in with hf auth login, or set HF_TOKEN."
            ) from error
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise RequestError(f"the hub could not be used for {name}: {said[0][:200]}") from error
