"""A plugin for `lmms-eval`: its benchmarks on our models, with LMMS_EVAL_PLUGINS=olmo.eval.lmms."""
