"""From a prompt to `encoder_hidden_states`: syntax, tokenizer, text encoder, blends, cache."""
