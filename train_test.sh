#!/usr/bin/env bash
# The name that the publication gave it.
exec "$(dirname "$0")/sub.sh" "$@"
