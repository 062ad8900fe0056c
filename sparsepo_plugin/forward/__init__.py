"""A model's forward pass on a batch of pairs, and the statistics of the response tokens.

What calls what, from the top::

    adapters/step.py    PreferenceStep.run_policy, .run_reference -> runner.ForwardRunner.read -> ModelOutput
      window            which positions the loss reads: ResponseWindow, made by the adapter
      head              HeadHook: takes the final states off the model's own call of its output head
      block_states      hooks on the blocks: hidden states, where a mask reads them
      activations       Recorder: feature means, where MaPO reads them
    adapters/step.py    PreferenceStep.evaluate -> pair_statistics.statistics -> types.TokenStats
      head.call_head    the policy's head, called once more with another arithmetic inside
                            or inside the pass, where the trainer needs that: ForwardRunner.read_inside
        statistics.fused    tiles: whole rows (rows, triton_kernels) or slices of the vocabulary (slices)
      statistics.reference  the same from logits: the reference implementation, and the fall-back
      sharding          makes the reference's head whole, where a trainer has split it
"""
