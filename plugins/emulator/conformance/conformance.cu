// The GPU's program. conformance.cpp is the emulator's.
#include "emulator/conformance/conformance.cuh"

int main(int count, char** arguments) { return conformance::run(count, arguments); }
