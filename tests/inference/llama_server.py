"""llama.cpp's own server, from the package xllamacpp, whose wheel has its C++ and needs no compiler.

python llama_server.py MODEL.gguf HOST PORT NAME CONTEXT
"""

import signal
import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames = [sys.argv[2]]
params.port = int(sys.argv[3])
params.model_alias = {sys.argv[4]}
params.n_ctx = int(sys.argv[5])
params.n_parallel = 1
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
params.endpoint_metrics = True
params.ui = False
server = xllamacpp.Server(params)
print(f"llama.cpp listens at {server.listening_address}", flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
