"""The root of every error promptdia raises on purpose, and the ones of the database."""


class PromptdiaError(Exception):
    """Something promptdia foresaw; its text is one sentence a user can act on."""


class TransientError(PromptdiaError):
    """Broker or database away or busy: the same call may succeed later."""


class ApdbError(PromptdiaError):
    """The database refuses: wrong schema version, out-of-order visit, broken invariant."""
