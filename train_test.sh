#!/usr/bin/env bash
# The name that the publication gave it.
exec "$(dirname "$(readlink -f "$0")")/sub.sh" "$@"
