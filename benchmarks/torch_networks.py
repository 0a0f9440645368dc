"""DCGAN and its training in PyTorch, as fast as PyTorch allows: the peer of the benchmarks.

Written from the papers, layer for layer the networks of `ganjax.networks.dcgan` in its 4x4 form.
"""

import torch
from torch import nn
from torch.nn import functional as F

SMALLEST_SIDE = 7


def halved_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return `size` and its halves until the smaller side is at most 7."""
    sizes = [tuple(size)]
    while min(sizes[-1]) > SMALLEST_SIDE:
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
    return sizes


def _normal(module: nn.Module) -> nn.Module:
    nn.init.normal_(module.weight, std=0.02)
    return module


class Generator(nn.Module):
    """Latents (B, latent_dim) and labels (B,) or None -> images (B, C, H, W) in [-1, 1]."""

    def __init__(self, shape, width=64, latent_dim=64, num_classes=0, embedding_dim=50):
        super().__init__()
        *size, channels = shape
        sizes = halved_sizes(size)[::-1]
        features = width * 2 ** (len(sizes) - 2)
        self.start = (features, *sizes[0])
        self.embedding = nn.Embedding(num_classes, embedding_dim) if num_classes else None
        inputs = latent_dim + (embedding_dim if num_classes else 0)
        self.dense = _normal(nn.Linear(inputs, features * sizes[0][0] * sizes[0][1], bias=False))
        layers = [nn.BatchNorm2d(features), nn.ReLU(inplace=True)]
        for larger in sizes[1:]:
            last = larger == sizes[-1]
            outputs = channels if last else features // 2
            layers.append(_normal(nn.ConvTranspose2d(features, outputs, 4, 2, 1, bias=last)))
            if not last:
                layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            features = outputs
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents, labels=None):
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], dim=1)
        x = self.dense(latents).reshape(-1, *self.start)
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class Discriminator(nn.Module):
    """Images (B, C, H, W) and labels (B,) or None -> logits (B,); labels by projection."""

    def __init__(self, shape, width=64, batch_norm=True, num_classes=0):
        super().__init__()
        *size, channels = shape
        sizes = halved_sizes(size)
        layers = []
        for layer in range(len(sizes) - 1):
            norm, outputs = batch_norm and layer > 0, width * 2**layer
            layers.append(_normal(nn.Conv2d(channels, outputs, 4, 2, 1, bias=not norm)))
            if norm:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            channels = outputs
        self.layers = nn.Sequential(*layers)
        features = channels * sizes[-1][0] * sizes[-1][1]
        self.dense = _normal(nn.Linear(features, 1))
        self.embedding = _normal(nn.Embedding(num_classes, features)) if num_classes else None

    def forward(self, images, labels=None):
        x = self.layers(images).flatten(1)
        logits = self.dense(x)[:, 0]
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * x).sum(1)
        return logits


class Trainer:
    """Adversarial training with a running average; `step()` is one update of both networks.

    Args:
      shape: (H, W, C) of the images.
      width: of both networks.
      batch_size: of a batch.
      loss: "non_saturating" or "wasserstein".
      gradient_penalty: its weight; 0 for none.
      r1_interval: steps between two lazy R1 updates; 0 for none.
      discriminator_steps: a step.
      batch_norm: in the discriminator.
      num_classes: 0 for none.
      joint_pass: judge real and fake images in one pass.
      precision: "float32", or "bfloat16" for autocast.
      compiled: whether `torch.compile` works on the networks.
      graph: whether the whole step becomes one CUDA graph.
    """

    def __init__(
        self,
        shape,
        *,
        width=64,
        batch_size=64,
        loss="non_saturating",
        gradient_penalty=0.0,
        r1_interval=0,
        discriminator_steps=1,
        batch_norm=True,
        num_classes=0,
        joint_pass=False,
        precision="float32",
        compiled=False,
        graph=False,
    ):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True
        self.loss, self.gradient_penalty, self.r1_interval = loss, gradient_penalty, r1_interval
        self.discriminator_steps, self.batch_size = discriminator_steps, batch_size
        self.num_classes, self.precision, self.count = num_classes, precision, 0
        self.latent_dim, self.joint_pass = 64, joint_pass

        def place(module):
            return module.to(self.device, memory_format=torch.channels_last)

        self.generator = place(Generator(shape, width, self.latent_dim, num_classes))
        self.discriminator = place(Discriminator(shape, width, batch_norm, num_classes))
        self.average = [p.detach().clone() for p in self.generator.parameters()]
        # On a CPU the fused and the plain update are about as fast; on a GPU fused is one launch.
        options = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True}
        if self.device == "cuda":
            options["capturable"] = True
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), **options)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), **options)
        self.generate, self.judge = self.generator, self.discriminator
        if compiled:
            # Frozen or not, real or fake, with or without gradient: each is a program of its own.
            torch._dynamo.config.recompile_limit = 64
            self.generate = torch.compile(self.generator)
            self.judge = torch.compile(self.discriminator)
        h, w, channels = shape
        count = (discriminator_steps, batch_size)
        self.images = torch.randint(0, 256, (*count, channels, h, w), dtype=torch.uint8)
        self.images = self.images.to(self.device)
        self.labels = torch.randint(0, max(1, num_classes), count, device=self.device)
        self.graph = None
        if graph:
            self._capture()

    def step(self) -> None:
        """Train one step."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self._step()

    def synchronize(self) -> None:
        """Wait for the end of everything."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _capture(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self.graph = graph

    def _step(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            self._update_both()

    def _fake(self, labels):
        latents = torch.randn(self.batch_size, self.latent_dim, device=self.device)
        return self.generate(latents, labels)

    def _update_both(self):
        share = self.discriminator_steps == 1  # one pass of the generator serves both updates
        for index in range(self.discriminator_steps):
            real = self.images[index].contiguous(memory_format=torch.channels_last)
            real = real.float().div_(127.5).sub_(1)
            labels = self.labels[index] if self.num_classes else None
            if share:
                fake = self._fake(labels)
            else:
                with torch.no_grad():
                    fake = self._fake(labels)
            self._update_discriminator(real, fake.detach(), labels)
        if not share:
            fake = self._fake(labels)
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(False)
        logits = self.judge(fake, labels).float()
        loss = F.softplus(-logits).mean() if self.loss == "non_saturating" else -logits.mean()
        self.generator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.generator_optimizer.step()
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.generator.parameters()), 0.01)
        self.count += 1

    def _update_discriminator(self, real, fake, labels):
        if self.joint_pass:
            both = None if labels is None else torch.cat([labels, labels])
            real_logits, fake_logits = self.judge(torch.cat([real, fake]), both).float().chunk(2)
        else:
            real_logits = self.judge(real, labels).float()
            fake_logits = self.judge(fake, labels).float()
        if self.loss == "non_saturating":
            loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        else:
            loss = fake_logits.mean() - real_logits.mean()
        if self.gradient_penalty:
            mix = torch.rand(real.shape[0], 1, 1, 1, device=self.device)
            between = torch.lerp(real, fake.float(), mix).requires_grad_(True)
            gradient = self._image_gradient(between, labels)
            norm = (gradient.square().sum((1, 2, 3)) + 1e-12).sqrt()
            loss = loss + self.gradient_penalty * (norm - 1).square().mean()
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.discriminator_optimizer.step()
        if self.r1_interval and self.count % self.r1_interval == 0:
            gradient = self._image_gradient(real.detach().requires_grad_(True), labels)
            penalty = 0.5 * gradient.square().sum((1, 2, 3)).mean() * self.r1_interval
            self.discriminator_optimizer.zero_grad(set_to_none=True)
            penalty.backward()
            self.discriminator_optimizer.step()

    def _image_gradient(self, images, labels):
        # Not compiled: torch.compile has no derivative of a derivative.
        logits = self.discriminator(images, labels)
        return torch.autograd.grad(logits.float().sum(), images, create_graph=True)[0]
