"""Encode a prompt as `encoder_hidden_states`: syntax, tokenizer, text encoder, blends, cache."""
