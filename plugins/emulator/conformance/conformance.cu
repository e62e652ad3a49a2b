// The GPU's side; the emulator's is conformance.cpp.
#include "emulator/conformance/conformance.cuh"

int main(int count, char** arguments) { return conformance::run(count, arguments); }
