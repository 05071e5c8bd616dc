"""MinDScAIP, from edges to per-atom energies (paper, Section 4).

Read from here: :mod:`mindscaip.graph.diffknn` selects and weighs edges (Eqs. 4-8, 10), :mod:`mindscaip.model.features`
makes tokens, :mod:`mindscaip.graph.windows` arranges them, :mod:`mindscaip.model.attention` mixes them, and
:mod:`mindscaip.model.heads` reads the self tokens.
"""

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from mindscaip.config import ModelConfig
from mindscaip.data.structure import MAX_ATOMIC_NUMBER
from mindscaip.graph.diffknn import Graph, build_graph, list_cutoff, weigh_edges, window_ranks
from mindscaip.graph.windows import Windows, make_windows
from mindscaip.model.attention import Block, LastBlock
from mindscaip.model.features import TokenEmbedding
from mindscaip.model.heads import DirectForceHead, EnergyHead


class MinDScAIP(nn.Module):
    """The minimally constrained differentiable scaled attention interatomic potential.

    Args:
        config: architecture.
        elements: symbols that the model knows.
        reference_energies: eV per element, added in float64 to every atom of that element.
        scale: eV; the energy head's output of order one is multiplied by it (eV/A for direct forces).
    """

    species_of: Tensor
    reference_energies: Tensor
    scale: Tensor

    def __init__(
        self, config: ModelConfig, elements: list[str], reference_energies: dict[str, float], scale: float = 1.0
    ) -> None:
        super().__init__()
        graph = config.graph
        self.k = graph.k
        self.cutoff = graph.cutoff
        self.list_cutoff = list_cutoff(graph.cutoff, graph.d0)
        self.d0 = graph.d0
        self.beta = graph.beta
        self.kind: str = graph.kind
        self.rank_function: str = graph.rank_function
        self.ranking: str = graph.ranking
        self.direct = config.head == "direct"
        self.num_heads = config.num_heads

        species_of = torch.full((MAX_ATOMIC_NUMBER + 1,), -1, dtype=torch.int64)
        for index, symbol in enumerate(elements):
            species_of[atomic_numbers[symbol]] = index
        self.register_buffer("species_of", species_of)
        references = torch.tensor([reference_energies[symbol] for symbol in elements], dtype=torch.float64)
        self.register_buffer("reference_energies", references)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

        width = config.embed_dim
        self.embedding = TokenEmbedding(
            len(elements),
            width,
            config.num_radial,
            config.l_max,
            graph.cutoff,
            config.gamma,
            config.hidden_factor * width,
        )
        hidden, atom_hidden = config.hidden_factor * width, config.atom_hidden_factor * width
        shape = (width, config.num_heads, config.temperature)
        self.blocks = nn.ModuleList(Block(*shape, hidden, atom_hidden) for _ in range(config.num_layers - 1))
        self.blocks.append(LastBlock(*shape, atom_hidden))
        self.energy_head = EnergyHead(width)
        self.force_head = DirectForceHead(width) if self.direct else nn.Identity()
        self._initialise(config.num_layers)
        self.set_precision(torch.float32)

    def _initialise(self, num_layers: int) -> None:
        """Linear maps keep the variance; a residual branch adds ``1 / (3 layers)`` of it: tokens stay of order one."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for name, weight in self.blocks.named_parameters():
                if name.endswith("out.weight"):
                    weight.mul_((3 * num_layers) ** -0.5)

    def set_precision(self, dtype: torch.dtype) -> "MinDScAIP":
        """Convert weights to ``dtype``; reference energies and scale stay float64, where energies are summed."""
        references, scale = self.reference_energies, self.scale
        self.to(dtype)
        self.reference_energies = references.to(torch.float64)
        self.scale = scale.to(torch.float64)
        return self

    @torch.jit.export
    def select_edges(self, num_atoms: int, edge_index: Tensor, edge_vectors: Tensor) -> Graph:
        """The weighted graph (Eqs. 4-8), float64."""
        return build_graph(
            num_atoms,
            edge_index,
            edge_vectors,
            self.k,
            self.cutoff,
            self.d0,
            self.beta,
            self.kind,
            self.rank_function,
            self.ranking,
        )

    @torch.jit.export
    def embed(self, numbers: Tensor, graph: Graph) -> Tensor:
        """Initial tokens ``[N + E, D]``: self tokens, then edges.

        Raises:
            RuntimeError: an element that the model does not know (engines refuse it earlier, by name).
        """
        species = self.species_of[numbers]
        if bool((species < 0).any()):
            raise RuntimeError("mindscaip: an atom is of an element that is not in the model")
        dtype = self.embedding.radial.weight.dtype
        return self.embedding(
            species, graph.center, graph.neighbor, graph.distance.to(dtype), graph.direction.to(dtype)
        )

    @torch.jit.export
    def windows(self, num_atoms: int, graph: Graph) -> tuple[Windows, Windows]:
        """Source and target windows of the graph."""
        source = self.arrange(num_atoms, graph.center, graph.log_envelope)
        return source, self.arrange(num_atoms, graph.neighbor, graph.log_envelope)

    @torch.jit.export
    def window_ranks(self, num_windows: int, window: Tensor, distance: Tensor) -> Tensor:
        """Ranks float64 ``[E]`` of edges within whole windows: of centres, or of neighbours."""
        return window_ranks(window, distance, num_windows, self.k, self.d0, self.rank_function, self.kind == "knn")

    @torch.jit.export
    def weigh_edges(
        self, center: Tensor, neighbor: Tensor, vectors: Tensor, distance: Tensor, ranks: Tensor, target_ranks: Tensor
    ) -> Graph:
        """The weighted graph of listed edges with their ranks in both windows (the second is read if mutual)."""
        listed = torch.arange(distance.size(0), device=distance.device)
        hard, mutual = self.kind == "knn", self.ranking == "mutual"
        return weigh_edges(
            center,
            neighbor,
            distance,
            ranks,
            target_ranks,
            vectors,
            listed,
            self.k,
            self.cutoff,
            self.beta,
            hard,
            mutual,
        )

    @torch.jit.export
    def arrange(self, num_windows: int, window: Tensor, log_envelope: Tensor) -> Windows:
        """Windows of edges that stand in one process, whichever process holds their other ends."""
        bias = log_envelope.to(self.embedding.radial.weight.dtype)
        return make_windows(window, bias, num_windows, self.num_heads)

    @torch.jit.export
    def source_stage(self, layer: int, tokens: Tensor, source: Windows) -> Tensor:
        """First half of block ``layer``: needs whole source windows."""
        for index, block in enumerate(self.blocks):
            if index == layer:
                tokens = block.source_stage(tokens, source)  # type: ignore[operator]
        return tokens

    @torch.jit.export
    def target_stage(self, layer: int, tokens: Tensor, target: Windows) -> Tensor:
        """Second half of block ``layer``: needs whole target windows; the last gives self tokens ``[N, D]`` alone."""
        for index, block in enumerate(self.blocks):
            if index == layer:
                tokens = block.target_stage(tokens, target)  # type: ignore[operator]
        return tokens

    @torch.jit.export
    def readout(self, numbers: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Energies float64 ``[N]`` in eV and direct forces ``[N or 0, 3]`` from self tokens ``[N, D]``."""
        references = self.reference_energies[self.species_of[numbers]]
        energies = references + self.scale * self.energy_head(atoms).to(torch.float64)
        if self.direct:
            forces = self.scale * self.force_head(atoms).to(torch.float64)
        else:
            forces = torch.zeros((0, 3), dtype=torch.float64, device=atoms.device)
        return energies, forces

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Per-atom energies and direct forces.

        Args:
            numbers: atomic numbers, int64 ``[N]``.
            edge_index: int64 ``[2, E]``, centre and neighbour, every pair up to ``list_cutoff`` in both directions.
            edge_vectors: ``[E, 3]``, A, ``r_neighbor - r_center + S @ cell``.

        Returns:
            Energies float64 ``[N]`` in eV; direct forces float64 ``[N, 3]`` in eV/A, or ``[0, 3]`` if conservative.
        """
        return self.readout(numbers, self.atom_tokens(numbers, edge_index, edge_vectors, None))

    def atom_tokens(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor, added: Tensor | None) -> Tensor:
        """Self tokens ``[N, D]`` after all blocks; ``added`` ``[N, D]`` goes onto the initial ones (pre-training)."""
        num_atoms = numbers.size(0)
        graph = self.select_edges(num_atoms, edge_index, edge_vectors)
        source, target = self.windows(num_atoms, graph)
        tokens = self.embed(numbers, graph)
        if added is not None:
            tokens = torch.cat([tokens[:num_atoms] + added, tokens[num_atoms:]])
        for block in self.blocks:
            tokens = block(tokens, source, target)
        return tokens[:num_atoms]
