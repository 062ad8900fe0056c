#!/usr/bin/env bash
# Submit a training to a running Ray cluster of 2 nodes with 8 GPUs each. The model, the data and the output
# folder lie on storage that all nodes see; `sparsepo` is installed on every node.
#   RAY_ADDRESS=http://head:8265 bash configs/launch/ray-job.sh configs/train/openrlhf/sparsepo-common.yaml
set -euo pipefail
config=${1:?usage: ray-job.sh CONFIG [FLAGS]}
shift
ray job submit --address "${RAY_ADDRESS:?address of the job server, such as http://head:8265}" -- \
  python -m sparsepo_plugin.train_dpo --config "$config" \
  --ray --ray.address auto --ray.num_nodes 2 --ray.gpus_per_node 8 "$@"
