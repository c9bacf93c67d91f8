#!/usr/bin/env bash
# Writes and scores masks: ./test.sh GPUS [PRED_ROOT] [RESOLUTIONS] [--ckpt_folder ckpts/RUN] [key=value ...]
# GPUS: a comma list such as 0,1, or cpu. RESOLUTIONS: any of WxH, native, config (the run's), in one argument.
# Without --ckpt_folder the newest run in ckpts is taken, and all its checkpoints.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")" # also through a link
source ./runtime/launch.sh
if [ $# -lt 1 ] || ! gpus "$1"; then
    sed -n '2,4s/^# //p' test.sh >&2
    exit 2
fi
gpus=$1 pred_root=e_preds resolutions=config
shift
positional() { [ $# -gt 0 ] && [[ $1 != --* && $1 != *=* ]]; }
if positional "$@"; then pred_root=$1; shift; fi
if positional "$@"; then resolutions=$1; shift; fi
folder=()
overrides=()
while [ $# -gt 0 ]; do
    case $1 in
        --ckpt_folder) folder=(--ckpt_folder "${2:?--ckpt_folder needs a folder}"); shift ;;
        pred_root=*) pred_root=${1#pred_root=} ;;
        *) overrides+=("$1") ;;
    esac
    shift
done
use_python
# shellcheck disable=SC2206 # resolutions are words on purpose
sizes=($resolutions)
(launch "$gpus" test.py "${overrides[@]}" "pred_root=$pred_root" "${folder[@]}" --resolution "${sizes[@]}")
python eval_existingOnes.py --pred_root "$pred_root" "${folder[@]}" "${overrides[@]}"
