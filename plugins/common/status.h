// Passing a status on to the caller.
#pragma once

#include "paro/paro_c.h"

// Returns from the calling function with the status of `expression` unless it is PARO_OK. Evaluates
// the expression once.
#define PARO_RETURN_IF_ERROR(expression)                             \
  do {                                                               \
    const paro_status paro_status_ = (expression);                   \
    if (paro_status_ != PARO_OK) return paro_status_;                \
  } while (false)
