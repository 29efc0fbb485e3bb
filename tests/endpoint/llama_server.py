"""Serve a GGUF model by llama.cpp's own server on loopback, and print its address: `llama_server.py MODEL`."""

import sys
import threading

import xllamacpp

CONTEXT, SIDE_BY_SIDE = 8192, 2
"""Tokens, shared by the requests that run side by side."""

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel = CONTEXT, SIDE_BY_SIDE
params.hostnames, params.port = ["127.0.0.1"], 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # several wait for each other where cores are shared
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
threading.Event().wait()
