"""From a name to weights and text: where a checkpoint lies, its config, its tensors, its tokenizer, its chat template.

checkpoint     open_checkpoint: a directory, the embedded demo or a hub id -> Checkpoint
shards         safetensors files: validation, memory maps, the shard index
content        digest: what a file holds, remembered while it stays as it is
packed_file    Writer, read: a file of packed weights, mapped
weight_cache   WeightCache: finds and keeps these files
finite         check_finite: no NaN or infinity gets into a weight
config         ConfigReader: typed, checked access to config.json
leftovers      has_own_head, name_unused: what a checkpoint holds beyond its config.json
hub            fetch: a hub repository -> a local directory
tokenizer      Tokenizer: text <-> token ids
detokenizer    Detokenizer: token ids -> text, piece by piece
chat_template  ChatTemplate: messages -> prompt text
generation_tag GenerationTag: a tag of templates

Nothing is imported here, so that each front pays only for what it uses.
"""
