// The scenes by the names that the texts give them, in the order of the texts.

import { surprise, widths } from "./comparePanels.js";
import { game } from "./game.js";
import { gates } from "./gatesPanel.js";
import { chain, similar, subnet, supernet } from "./panels.js";
import { path } from "./pathPanel.js";

export const SCENES = { chain, similar, path, supernet, subnet, gates, surprise, widths, game };
