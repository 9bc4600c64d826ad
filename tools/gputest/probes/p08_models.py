# p08: three models under the counting preload; one line of counts a model.
import ctypes
import sys

import torch

gp = ctypes.CDLL(None)
n = 10


def go(name, f, per=1, first=True):
    gp.gp_reset()
    f()
    torch.cuda.synchronize()
    gp.gp_report((name + " first").encode(), 1) if first else None
    f()
    torch.cuda.synchronize()
    gp.gp_reset()
    [f() for _ in range(n)]
    torch.cuda.synchronize()
    gp.gp_report(name.encode(), n * per)


torch.manual_seed(0)
with torch.inference_mode():
    if "resnet50" in sys.argv:
        import torchvision

        m = torchvision.models.resnet50().cuda().eval().half()
        x = torch.randn(1, 3, 224, 224).half()
        go("resnet50 fp16", lambda: m(x.cuda()).cpu())
    if "bert" in sys.argv:
        from transformers import BertConfig, BertModel

        m = BertModel(BertConfig()).cuda().eval().half()
        x = torch.randint(0, 30000, (1, 128))
        go("bert-base fp16", lambda: m(x.cuda()).last_hidden_state[:, 0].cpu())
    if "gpt2" in sys.argv:
        from transformers import GPT2Config, GPT2LMHeadModel

        m = GPT2LMHeadModel(GPT2Config()).cuda().eval().half()
        x = torch.randint(0, 50000, (1, 16))
        go("gpt2 fp16, a token", lambda: m.generate(x.cuda(), max_new_tokens=16, do_sample=False, pad_token_id=0).cpu(), 16)
