"""Before and after: the gateway's policies on the same load, run after run."""
