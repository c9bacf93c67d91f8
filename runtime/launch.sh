# Sourced by sub.sh, train.sh and test.sh.

# gpus TEXT tells whether a text names GPUs, as the scripts take them.
gpus() {
    local one='([0-9]+|(GPU|MIG)-[^,=]+)'
    [[ $1 =~ ^(cpu|$one(,$one)*)$ ]]
}

# use_python lets `python` be one that has PyTorch: the active one, or that of .venv, which make has installed.
use_python() {
    local has_torch='import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'
    python -c "$has_torch" 2>/dev/null && return
    PATH=$PWD/.venv/bin:$PATH
    python -c "$has_torch" 2>/dev/null && return
    echo "python has no PyTorch: activate its environment, or install it (pip install -r requirements.txt)" >&2
    exit 1
}

# launch GPUS SCRIPT [ARGUMENT ...] runs SCRIPT on these GPUs, or on the CPU.
launch() {
    local gpus=$1 device=cuda processes
    shift
    if [ "$gpus" = cpu ]; then
        # CPU_PROCESSES > 1 shares the work among so many processes, over gloo.
        device=cpu processes=${CPU_PROCESSES:-1}
        # torchrun would give each process a single thread.
        local threads=$(($(getconf _NPROCESSORS_ONLN) / processes))
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
    else
        processes=$(tr ',' '\n' <<<"$gpus" | grep -c .)
        # In a job of Slurm's the list says how many: which ones is for Slurm to say.
        [ -z "${SLURM_JOB_ID:-}" ] || gpus=$(cut -d , -f "1-$processes" <<<"${CUDA_VISIBLE_DEVICES:-$gpus}")
        export CUDA_VISIBLE_DEVICES=$gpus
    fi
    if [ "$processes" -gt 1 ] || [ "${NNODES:-1}" -gt 1 ]; then
        # By its address, because a machine's own name may not resolve.
        local rendezvous=(--standalone --local-addr 127.0.0.1)
        if [ "${NNODES:-1}" -gt 1 ]; then
            rendezvous=(--nnodes "$NNODES" --node-rank "${NODE_RANK:?set NODE_RANK on each node}"
                        --master-addr "${MASTER_ADDR:?set MASTER_ADDR to the first node}"
                        --master-port "${MASTER_PORT:-29500}")
        fi
        # torchrun would set the same, with a warning.
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
        exec python -m runtime.launch "${rendezvous[@]}" --nproc-per-node "$processes" "$@" "device=$device"
    fi
    exec python "$@" "device=$device"
}
