"""Training on several ranks: processes that an MPI launcher starts, and that train one model together."""
