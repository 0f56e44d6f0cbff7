"""The Show-Attend-Tell tutorial's modules in torch, with its names, for comparison."""

import torch
from torch import nn


class Encoder(nn.Module):
    """The first children of a ResNet, as the tutorial keeps them."""

    def __init__(self):
        super().__init__()
        self.resnet = nn.Sequential(nn.Conv2d(3, 4, 7, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.adaptive_pool = nn.AdaptiveAvgPool2d((14, 14))


class Attention(nn.Module):
    def __init__(self, memory, width, attention):
        super().__init__()
        self.encoder_att = nn.Linear(memory, attention)
        self.decoder_att = nn.Linear(width, attention)
        self.full_att = nn.Linear(attention, 1)


class DecoderWithAttention(nn.Module):
    def __init__(self, words, width, embed, attention, memory):
        super().__init__()
        self.attention = Attention(memory, width, attention)
        self.embedding = nn.Embedding(words, embed)
        self.dropout = nn.Dropout(0.5)
        self.decode_step = nn.LSTMCell(embed + memory, width)
        self.init_h = nn.Linear(memory, width)
        self.init_c = nn.Linear(memory, width)
        self.f_beta = nn.Linear(width, memory)
        self.fc = nn.Linear(width, words)


def reference(decoder, memory, tokens):
    """The tutorial's equations, a step at a time: memory [N, P, D], tokens [N, T]."""
    mean = memory.mean(dim=1)
    h, c = decoder.init_h(mean), decoder.init_c(mean)
    attention, logits, weights = decoder.attention, [], []
    for token in tokens.T:
        mixed = attention.encoder_att(memory) + attention.decoder_att(h)[:, None]
        alpha = attention.full_att(torch.relu(mixed))[..., 0].softmax(dim=1)
        context = torch.sigmoid(decoder.f_beta(h)) * (alpha[..., None] * memory).sum(dim=1)
        h, c = decoder.decode_step(torch.cat([decoder.embedding(token), context], 1), (h, c))
        logits.append(decoder.fc(h))
        weights.append(alpha)
    return torch.stack(logits, 1).numpy(), torch.stack(weights, 1).numpy()
