"""What we ask of an event loop and of the process: wakers, timers, tasks, locks, forks. Imports nothing else of ours."""
