"""trialgrid: images + grid -> pack -> trials -> metrics rows -> summary workbook."""
