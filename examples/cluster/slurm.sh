#!/usr/bin/env bash
# Train on two nodes of eight GPUs with Slurm. From a folder that all nodes see:
#
#   sbatch slurm.sh train --config base
#   sbatch slurm.sh resume runs/NAME
#
# Each node runs one torchrun, which starts a process a GPU. A job that Slurm requeues keeps its id,
# and so its run. Two minutes before the time is up the run is told to save itself.
#SBATCH --job-name=tiny
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -eu

# source .venv/bin/activate, or whatever makes `tiny` and `torchrun` known
export TINY_TRANSFORMER_CACHE=${TINY_TRANSFORMER_CACHE:-$PWD/cache}

# This script runs on the first node; two jobs on one node have different ports.
head=$(hostname)
port=$((20000 + SLURM_JOB_ID % 10000))

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
    torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$head:$port" \
    --rdzv-id "$SLURM_JOB_ID" \
    --max-restarts 3 \
    --no-python tiny "$@"
