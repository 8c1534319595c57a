"""Settings for the whole suite."""

import os

# One thread for the linear algebra, as the command line has it: the last bits of a fit depend
# on their number. Libraries read the variable when they are loaded; some are loaded already.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from threadpoolctl import threadpool_limits

threadpool_limits(1, "blas")
