// CUDA's runtime as the environment describes it: FAKE_SM, FAKE_DRIVER, FAKE_ERROR.
#pragma once

#include <cstdlib>

#define CUDART_VERSION 13000

enum cudaError_t { cudaSuccess = 0, cudaErrorInsufficientDriver = 35, cudaErrorNoDevice = 100 };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76
};

inline int from_environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 3;
  return static_cast<cudaError_t>(from_environment("FAKE_ERROR"));
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int sm = from_environment("FAKE_SM");
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? sm / 10 : sm % 10;
  return cudaSuccess;
}

inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = from_environment("FAKE_DRIVER");
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline const char* cudaGetErrorString(cudaError_t) { return "no CUDA-capable device is detected"; }
