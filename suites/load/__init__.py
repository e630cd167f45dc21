"""Load workloads: requests that arrive by themselves, and what a session makes of them."""
