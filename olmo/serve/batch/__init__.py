"""Answers to files of requests: by this process, by several, or by a Ray cluster. `run.run_batch` is the way in."""
