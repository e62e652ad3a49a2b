// The emulator's program. conformance.cu is the GPU's.
#include "emulator/conformance/conformance.cuh"

int main(int count, char** arguments) { return conformance::run(count, arguments); }
