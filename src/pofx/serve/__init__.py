"""`pofx serve`: the tasks of a run over HTTP.

    front.py    one process: HTTP, limits, what is malformed is refused here, with a reason
    payload.py  bytes of a request → images
    pool.py     a bounded queue, batches, worker processes; what a dead worker held is queued again
    wire.py     messages between the two: JSON and arrays, never pickle
    worker.py   the process that holds the model
    jobs.py     what a worker does: tasks, at the fixed batch shape of `tasks/bulk.py`, so that answers equal the command line's
    page.py     /docs, which needs no network

Requests are pure: the same request has the same answer, whoever works on it and however often. docs/decisions/0015-serving.md says why so.
"""
