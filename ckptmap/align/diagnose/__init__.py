"""Where two models that do not agree part, and why: experiments on one side after which they do."""
