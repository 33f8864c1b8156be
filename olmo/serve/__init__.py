"""A server that speaks the OpenAI chat protocol: limits, protocol, pictures and clips, answers, routes."""
