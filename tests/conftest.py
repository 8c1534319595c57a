"""Settings for the whole suite."""

import os

# As the command line runs it: the last bits of a fit depend on the number of threads in the
# linear algebra, which reads this when numpy is first imported.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
