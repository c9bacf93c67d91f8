#!/usr/bin/env bash
# Everything that a GPU has to show, in under ten minutes on one card: what must hold, then what it takes.
#
#   benchmarks/gpu_check.sh [FOLDER]
#
# Nothing is installed: torch, torchvision, timm, opencv, numpy, scikit-image, tabulate, safetensors and pytest do.
# Each part has its seconds, the most important comes first, and one that fails or runs over does not stop the others.
# Figures go to FOLDER/gpu.jsonl (default: the folder gpu_check), all output to FOLDER/log.txt.
# DEVICE=cpu tries the script itself, with small figures.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu_check}
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
mkdir -p "$folder"
exec > >(tee "$folder/log.txt") 2>&1
export PYTHONUNBUFFERED=1

failed=()
part() {  # part NAME SECONDS COMMAND ...
    local name=$1 seconds=$2 began=$SECONDS
    shift 2
    echo "== $name (at most $seconds s)"
    timeout --kill-after=5 "$seconds" "$@"
    local code=$?
    echo "== $name: $([ $code = 0 ] && echo passed || echo "failed with code $code") after $((SECONDS - began)) s"
    [ $code = 0 ] || failed+=("$name")
}

tests=("$python" -m pytest tests/gpu -v --tb=short -p no:cacheprovider)
figures=("$python" -m benchmarks.gpu --device "$device" --json "$folder/gpu.jsonl")
if [ "$device" = cpu ]; then
    part 'checks' 110 "${tests[@]}" -m 'not gpu' -k 'deformable or optimize or resume'
    part 'figures' 120 "${figures[@]}" --size 64x64 --backbones pvt_v2_b0 --runs 1 --compiled without
else
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    part 'checks' 110 "${tests[@]}" -m gpu -k 'not scripts and not compiled'
    part 'figures' 140 "${figures[@]}" --seconds 120 --compiled without
    part 'scripts' 120 "${tests[@]}" -m gpu -k scripts
    part 'compiled' 90 "${tests[@]}" -m gpu -k compiled
    part 'compiled figures' 120 "${figures[@]}" --seconds 90 --compiled only
fi

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo 'all passed'
