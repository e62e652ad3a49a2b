#!/bin/sh
# A compiler launcher: warnings of a compiler that the project's CI does not know end no measurement.
exec "$@" -Wno-error
