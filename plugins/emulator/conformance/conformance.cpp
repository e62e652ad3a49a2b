// The emulator's side; the GPU's is conformance.cu.
#include "emulator/conformance/conformance.cuh"

int main(int count, char** arguments) { return conformance::run(count, arguments); }
