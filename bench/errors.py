"""What can go wrong that the user can mend: one sentence, exit code 2, no traceback."""


class BenchError(Exception):
    """An error whose text is a sentence that tells the user what is wrong and what to do.

    The command line prints it and exits with `exit_code`; nothing that was already written is lost.
    """

    exit_code = 2


class DataError(BenchError):
    """A dataset, a category or a picture cannot be used as it is."""


class RecordError(BenchError):
    """A record or a result folder cannot be read or written."""


class ContradictionError(RecordError):
    """A record does not say what its own scores, or its own hashes, say: it was changed, or never true."""


class DiskError(RecordError):
    """The disk refuses, or a folder in the way does: nothing further can be written there."""


class UnknownNameError(BenchError):
    """A name is not in its registry; the text offers the nearest one."""


class CellError(BenchError):
    """One cell of the plan failed (NaN scores, a broken ball); the run goes on and the exit code says so."""
