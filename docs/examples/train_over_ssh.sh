#!/bin/sh
# Train on machines that you reach by ssh, and resume when one of them does not answer. They need the same
# minigam, the same data and a common folder for the run. MPICH's mpiexec logs in to each machine.
#
#   sh train_over_ssh.sh HOSTS RANKS RUN [flags of minigam train]
#   sh train_over_ssh.sh anna:4,otto:4 8 runs/both --preset published --dataset data/wikitext-2-prepared

set -u
if [ $# -lt 3 ]; then
  echo "usage: train_over_ssh.sh HOSTS RANKS RUN [flags]" >&2
  exit 2
fi
hosts=$1 ranks=$2 run=$3
shift 3

while [ ! -e "$run/complete.json" ]; do
  if [ -e "$run/config.json" ] && [ ! -e "$run/.unfinished" ]; then where=--resume; else where=--out; fi
  mpiexec -launcher ssh -hosts "$hosts" -n "$ranks" minigam train --backend numpy "$@" "$where" "$run"
  code=$?
  case $code in
    0) [ -e "$run/complete.json" ] || { echo "exit code 0, but $run is not complete" >&2; exit 1; } ;;
    75) echo "trying again in ${PAUSE:=30} seconds" >&2; sleep "$PAUSE" ;;
    *) exit "$code" ;;
  esac
done
