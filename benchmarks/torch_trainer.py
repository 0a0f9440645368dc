"""Adversarial training in PyTorch, as fast as PyTorch allows: the peer of the benchmarks."""

import math

import torch
from torch.nn import functional as F


class Trainer:
    """Adversarial training with a running average; `step()` is one update of both networks.

    Args:
      generator: latents (B, latent_dim) and labels -> images (B, C, H, W); for path lengths with
        methods `map` and `synthesize`.
      discriminator: images and labels -> logits (B,).
      shape: (H, W, C) of the images.
      latent_dim: length of a latent.
      batch_size: of a batch.
      loss: "non_saturating", "hinge", "wasserstein" or "relativistic".
      gradient_penalty: its weight; 0 for none.
      r1_interval: steps between two R1 updates; 0 for none, 1 adds R1 to each step's loss.
      r2: whether R1 comes with R2.
      path_interval: steps between two path-length updates, of half a batch; 0 for none.
      discriminator_steps: a step.
      num_classes: 0 for none.
      joint_pass: judge real and fake images in one pass.
      precision: "float32", or "bfloat16" for autocast.
      compiled: whether `torch.compile` works on the networks where no second derivative is taken.
      graph: whether the whole step becomes one CUDA graph.
    """

    def __init__(
        self,
        generator,
        discriminator,
        *,
        shape,
        latent_dim=64,
        batch_size=64,
        loss="non_saturating",
        gradient_penalty=0.0,
        r1_interval=0,
        r2=False,
        path_interval=0,
        discriminator_steps=1,
        num_classes=0,
        joint_pass=False,
        precision="float32",
        compiled=False,
        graph=False,
    ):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True
        self.loss, self.gradient_penalty = loss, gradient_penalty
        self.r1_interval, self.r2, self.path_interval = r1_interval, r2, path_interval
        self.discriminator_steps, self.batch_size = discriminator_steps, batch_size
        self.num_classes, self.precision, self.count = num_classes, precision, 0
        self.latent_dim, self.joint_pass = latent_dim, joint_pass

        def place(module):
            return module.to(self.device, memory_format=torch.channels_last)

        self.generator, self.discriminator = place(generator), place(discriminator)
        self.average = [p.detach().clone() for p in self.generator.parameters()]
        self.path_mean = torch.zeros((), device=self.device)
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
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.generator.parameters()), 0.01)
        self.count += 1

    def _latents(self, count):
        return torch.randn(count, self.latent_dim, device=self.device)

    def _inputs(self, images, labels):
        return (images, labels) if self.num_classes else (images,)

    def _fake(self, labels):
        return self.generate(*self._inputs(self._latents(self.batch_size), labels))

    def _update_both(self):
        # One pass of the generator serves both updates where the papers' code does so.
        share = self.discriminator_steps == 1 and self.loss == "non_saturating"
        share = share and not self.path_interval
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
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(False)
        if not share:
            fake = self._fake(labels)
        logits = self.judge(*self._inputs(fake, labels)).float()
        if self.loss == "relativistic":
            with torch.no_grad():
                real_logits = self.judge(*self._inputs(real, labels)).float()
            logits = logits - real_logits
        linear = self.loss in ("hinge", "wasserstein")
        self._descend(
            self.generator_optimizer, -logits.mean() if linear else F.softplus(-logits).mean()
        )
        if self.path_interval and self.count % self.path_interval == 0:
            self._descend(self.generator_optimizer, self._path_length())
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(True)

    def _descend(self, optimizer, loss):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def _update_discriminator(self, real, fake, labels):
        eager = self.r1_interval == 1
        if eager:  # the passes that are differentiated twice are those of the loss
            real.requires_grad_(True)
            fake.requires_grad_(self.r2)
        judge = self.discriminator if eager else self.judge
        if self.joint_pass:
            both = None if labels is None else torch.cat([labels, labels])
            logits = judge(*self._inputs(torch.cat([real, fake]), both))
            real_logits, fake_logits = logits.float().chunk(2)
        else:
            real_logits = judge(*self._inputs(real, labels)).float()
            fake_logits = judge(*self._inputs(fake, labels)).float()
        loss = {
            "non_saturating": lambda: F.softplus(-real_logits) + F.softplus(fake_logits),
            "hinge": lambda: F.relu(1 - real_logits) + F.relu(1 + fake_logits),
            "wasserstein": lambda: fake_logits - real_logits,
            "relativistic": lambda: F.softplus(fake_logits - real_logits),
        }[self.loss]().mean()
        if eager:
            loss = loss + self._squared_gradient(real_logits, real)
            if self.r2:
                loss = loss + self._squared_gradient(fake_logits, fake)
        if self.gradient_penalty:
            mix = torch.rand(real.shape[0], 1, 1, 1, device=self.device)
            between = torch.lerp(real, fake.float(), mix).requires_grad_(True)
            # Not compiled, here and below: torch.compile has no derivative of a derivative.
            logits = self.discriminator(*self._inputs(between, labels)).float()
            gradient = torch.autograd.grad(logits.sum(), between, create_graph=True)[0]
            norm = (gradient.square().sum((1, 2, 3)) + 1e-12).sqrt()
            loss = loss + self.gradient_penalty * (norm - 1).square().mean()
        self._descend(self.discriminator_optimizer, loss)
        if self.r1_interval > 1 and self.count % self.r1_interval == 0:
            real = real.detach().requires_grad_(True)
            logits = self.discriminator(*self._inputs(real, labels)).float()
            penalty = self._squared_gradient(logits, real) * self.r1_interval
            self._descend(self.discriminator_optimizer, penalty)

    def _squared_gradient(self, logits, images):
        gradient = torch.autograd.grad(logits.sum(), images, create_graph=True)[0]
        return 0.5 * gradient.square().sum((1, 2, 3)).mean()

    def _path_length(self):
        styles = self.generator.map(self._latents(self.batch_size // 2))
        images = self.generator.synthesize(styles)
        noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
        gradient = torch.autograd.grad((images * noise).sum(), styles, create_graph=True)[0]
        lengths = gradient.square().sum(2).mean(1).sqrt()
        self.path_mean = self.path_mean.lerp(lengths.mean(), 0.01).detach()
        return 2 * (lengths - self.path_mean).square().mean() * self.path_interval
