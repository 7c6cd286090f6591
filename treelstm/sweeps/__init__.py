"""Many runs a night: what is to run, the processes that run it, and what is known of each."""
