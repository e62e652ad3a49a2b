"""The GPU suite behind gpu_suite.sh: build, check and measure on the GPU of one machine."""
