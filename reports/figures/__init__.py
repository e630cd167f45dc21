"""The report's pictures, drawn as inline SVG: small, styled by the page, readable offline."""
