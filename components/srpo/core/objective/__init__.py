"""The paper as pure functions of tensors; imports torch and nothing of ours."""
