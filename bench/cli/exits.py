"""Exit codes beside 0 and 2, and the words for them: also for who has imported nothing yet."""

FLAGGED = 3  # `diagnose` came to its end, and some flag is up
UNFINISHED = 75  # a share that was told to end early: the same command goes on
STOPPED = 130  # what shells report for a program that Ctrl-C ended
UNREAD = 141  # and for one that wrote to a pipe which nobody reads any more
STOPPED_SENTENCE = "Stopped; what was finished is kept, and the same command goes on from there."
